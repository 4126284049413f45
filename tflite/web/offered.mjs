// Nets and photos to try, from a folder beside the page; see examples/publish_nets.py.

const FOLDER = 'nets/';

/** A picture's name without its number and its ending. */
export function title(photo) {
  return photo.replace(/^\d+_/, '').replace(/\.[^.]*$/, '').replaceAll(/[-_]/g, ' ');
}

/** What the folder's list offers, with addresses; null where there is no list. */
export async function offered(get = fetch) {
  const response = await get(`${FOLDER}index.json`).catch(() => null);
  if (!response?.ok) return null;
  const {nets, photos} = await response.json();
  return {
    nets: nets.map(({file, name}) => ({url: FOLDER + file, name})),
    photos: photos.map((file) => ({url: `${FOLDER}photos/${file}`, name: title(file)})),
  };
}

/** Fills `place` with buttons; `useNet` and `usePhoto` take an address. */
export function showOffer(place, {nets, photos}, {useNet, usePhoto}) {
  const button = (parent, use, url) => {
    const found = parent.appendChild(document.createElement('button'));
    found.type = 'button';
    found.addEventListener('click', () => use(url));
    return found;
  };
  const [forNets, forPhotos] = place.querySelectorAll('div');
  for (const {url, name} of nets) button(forNets, useNet, url).textContent = name;
  for (const {url, name} of photos) {
    const picture = document.createElement('img');
    Object.assign(picture, {src: url, alt: name, title: name, loading: 'lazy'});
    button(forPhotos, usePhoto, url).append(picture);
  }
  place.hidden = false;
}
